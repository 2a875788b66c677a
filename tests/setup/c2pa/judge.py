"""Says what C2PA's Python library makes of a file.

    judge.py MEDIA_TYPE FILE ROOT_PEM [MANIFEST]

ROOT_PEM is trusted. MANIFEST is the manifest store of a file that carries none. Prints one JSON object: `state` (the
library's word, or `Unreadable`), the status codes of all `failures`, and what the active manifest tells.
"""

import json
import sys

import c2pa


def told(reader):
    store = json.loads(reader.json())
    manifest = store["manifests"][store["active_manifest"]]
    assertions = {assertion["label"]: assertion["data"] for assertion in manifest["assertions"]}
    failures = store.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    return {
        "state": store.get("validation_state"),
        "failures": [failure["code"] for failure in failures],
        "generator": manifest["claim_generator_info"][0]["name"],
        "actions": [action["action"] for action in assertions["c2pa.actions.v2"]["actions"]],
        "generation": assertions.get("com.bildkante.generation"),
        "timestamp": manifest["signature_info"].get("time"),
        "ingredients": [ingredient.get("title") for ingredient in manifest.get("ingredients", [])],
    }


def main(media_type, file, root, manifest=None):
    with open(root, encoding="ascii") as pem:
        trust = {"trust_anchors": pem.read()}
    settings = {"trust": trust, "verify": {"verify_trust": True, "remote_manifest_fetch": False}}
    store = open(manifest, "rb").read() if manifest else None
    context = c2pa.Context.from_dict(settings)
    try:
        with open(file, "rb") as stream, c2pa.Reader(media_type, stream, store, context=context) as reader:
            print(json.dumps(told(reader)))
    except c2pa.C2paError as error:
        print(json.dumps({"state": "Unreadable", "failures": [str(error)]}))


main(*sys.argv[1:])
