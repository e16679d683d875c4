"""The reverse proxy: OpenAI's and Anthropic's APIs, with what goes in screened.

A request passes these modules in order, each knowing only the next::

    app         what is served where, from start to stop
    calls       a request that has come in: its route (routes), its client
                (clients), its body (encoding, body)
    content     the body -> every untrusted string, with its role and path, by API
                shape; what counts as text is in leaves, opaque and escapes
    screening   the strings -> alarms: remembered (cache) or fresh (pool), within
                a time budget
    policy      alarms -> one verdict with one action
    gateway     the order of these steps, and what follows from the verdict:
                responses, refusals, spotlight, or
    upstream    forward (headers), and pass the answer back untouched (relay) or
                looked into (watch, answers)

`options` are the tables of the configuration, `settings` where it comes from,
`state` what it amounts to, `reload` its changes. `telemetry` names everything
that is traced or measured, `exporters` where it goes, `logs`, `audit` and
`capture` what is written down. `service` is the firewall itself over HTTP,
`server` and `workers` run an app, `explain` says what a policy does, `echo` is
an upstream for trying things out.
"""
