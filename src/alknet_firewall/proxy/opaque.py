"""What in a request no text screening can read. Pure functions.

Two sorts: *opaque* values are pixels, samples, pages and sealed text, and are
left out of the screening; *references* point to something that the upstream
fetches, and are screened as the text that they are, and counted.
"""

from __future__ import annotations

import re
from typing import Any, Literal, cast

__all__ = ["Kind", "is_hosted_tool", "is_tokens", "opaque_kind", "reference_kind"]

Kind = Literal[
    "image", "audio", "video", "file", "tokens", "sealed", "history", "prompt", "hosted_tool"
]
"""`sealed`: text only its provider can read, such as signatures of thinking;
`history`: earlier turns that the upstream keeps; `prompt`: one stored there;
`hosted_tool`: the upstream runs it, and feeds its results to the model."""

# (what holds it: its type or its key, the field) -> what it is. An image's URL
# is opaque where the image is in it.
_MEDIA_FIELDS: dict[tuple[str, str], Kind] = {
    ("image_url", "url"): "image",
    ("video_url", "url"): "video",
    ("audio_url", "url"): "audio",
    ("input_image", "image_url"): "image",
    ("computer_screenshot", "image_url"): "image",
    ("input_audio", "data"): "audio",
    ("file", "file_data"): "file",
    ("input_file", "file_data"): "file",
    ("base64", "data"): "file",
    ("image_generation_call", "result"): "image",
}
_SEALED_FIELDS = {
    ("thinking", "signature"),
    ("redacted_thinking", "data"),
    *(
        (holder, "encrypted_content")
        for holder in ("reasoning", "compaction", "web_search_result", "compaction_summary")
    ),
    ("web_search_result_location", "encrypted_index"),
    ("encrypted_code_execution_result", "encrypted_stdout"),
}
_MEDIA_KINDS: tuple[Kind, ...] = ("image", "audio", "video")
_DATA_URL = re.compile(
    r"data:(?:(image|audio|video)/[\w.+-]+|application/pdf);base64,(?:[A-Za-z0-9+/]+={0,2})?"
)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_LINK = re.compile(r"https?://", re.IGNORECASE)


def opaque_kind(holders: tuple[object, ...], key: str, value: object) -> Kind | None:
    """The kind of an opaque value, or None where it must be screened."""
    if not isinstance(value, str):
        return None
    for holder in holders:
        if not isinstance(holder, str):
            continue
        if (holder, key) in _SEALED_FIELDS and _BASE64.fullmatch(value):
            return "sealed"
        if kind := _MEDIA_FIELDS.get((holder, key)):
            return _media_kind(_named_kind(holders) or kind, key, value)
    return None


def _named_kind(holders: tuple[object, ...]) -> Kind | None:
    """What a part of type `image`, or a source of `image/png`, holds."""
    names = [holder.partition("/")[0] for holder in holders if isinstance(holder, str)]
    return next((kind for kind in _MEDIA_KINDS if kind in names), None)


def _media_kind(kind: Kind, key: str, value: str) -> Kind | None:
    if found := _DATA_URL.fullmatch(value):
        return cast(Kind, found[1] or "file")
    bare = "url" not in key and _BASE64.fullmatch(value) is not None
    return kind if bare else None


_FILE_KEYS = ("file_id", "file_ids", "vector_store_ids", "container", "container_id", "skill_id")
_FETCHED: dict[tuple[str, str], Kind] = {
    ("image_url", "url"): "image",
    ("video_url", "url"): "video",
    ("audio_url", "url"): "audio",
    ("input_image", "image_url"): "image",
    ("computer_screenshot", "image_url"): "image",
    ("input_file", "file_url"): "file",
    ("url", "url"): "file",
}


def reference_kind(holders: tuple[object, ...], key: str, value: object) -> Kind | None:
    """The kind of what a value points to, or None where it points to nothing."""
    if not value:
        return None
    if key in _FILE_KEYS or (key == "id" and "audio" in holders):
        return _named_kind(holders) or "file"
    if key == "id" and "item_reference" in holders:
        return "history"
    if not isinstance(value, str) or not _LINK.match(value):
        return None
    kinds = [_FETCHED.get((holder, key)) for holder in holders if isinstance(holder, str)]
    found = next((kind for kind in kinds if kind), None)
    return found and (_named_kind(holders) or found)


def is_tokens(value: object) -> bool:
    """Whether a value is a list of token ids, or a list of such lists."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, int) for item in value) or all(map(is_tokens, value))


def is_hosted_tool(tool: object) -> bool:
    """Whether a tool definition is of a type that the client does not run itself."""
    kind = cast("dict[str, Any]", tool).get("type", "custom") if isinstance(tool, dict) else None
    return isinstance(kind, str) and kind not in ("function", "custom", "namespace")
