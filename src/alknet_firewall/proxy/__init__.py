"""The reverse proxy: an OpenAI-compatible API that screens what goes in.

A request passes these modules in order, each knowing only the next::

    app         routes, and the order of the steps below
    body        bytes -> one parsed JSON object, and back
    content     the object -> every untrusted string, with its role and path
    screening   the strings -> alarms, off the event loop, within a time budget
    policy      alarms -> one verdict with one action
    upstream    forward, and stream the answer back untouched
    responses   answers of the proxy's own, in OpenAI's shapes

`telemetry` names everything that is traced or measured, `server` runs an app,
`echo` is an upstream for trying things out.
"""
