"""Last of all: every right of the operator's and the gateway's accounts was seen in use."""

import json

import pytest


def list_rights(sluice, account):
    """Return (group, resource, verb) of every rule bound to an account."""
    granted = set()
    for kind, scope in (("clusterrole", ()), ("role", ("-A",))):
        for role in sluice.get(kind, *scope)["items"]:
            if role["metadata"]["name"].startswith(account):
                for rule in role.get("rules") or ():
                    granted |= {
                        (group, resource, verb)
                        for group in rule["apiGroups"]
                        for resource in rule["resources"]
                        for verb in rule["verbs"]
                    }
    return granted


def list_uses(sluice, account):
    """Return (group, resource, verb) of every request of an account in the audit log."""
    user = f"system:serviceaccount:sluice-system:{account}"
    used = set()
    for line in sluice.cluster.state.audit_log.read_text().splitlines():
        event = json.loads(line)
        ref = event.get("objectRef") or {}
        if event["user"].get("username") != user or "resource" not in ref:
            continue
        resource = "/".join(filter(None, (ref["resource"], ref.get("subresource"))))
        used.add((ref.get("apiGroup", ""), resource, event["verb"]))
        # A server-side apply that makes an object is asked for both rights, and logged as a patch.
        if event["verb"] == "patch" and event.get("responseStatus", {}).get("code") == 201:
            used.add((ref.get("apiGroup", ""), resource, "create"))
    return used


@pytest.mark.parametrize("account", ["sluice-operator", "sluice-gateway"])
def test_no_right_is_granted_that_is_not_used(sluice, account):
    granted, used = list_rights(sluice, account), list_uses(sluice, account)
    assert granted
    assert granted - used == set()


@pytest.mark.parametrize("account", ["sluice-operator", "sluice-gateway"])
def test_nothing_was_tried_that_is_not_granted(sluice, account):
    user = f"system:serviceaccount:sluice-system:{account}"
    refused = {
        (event["verb"], event["requestURI"].split("?")[0])
        for line in sluice.cluster.state.audit_log.read_text().splitlines()
        if (event := json.loads(line))["user"].get("username") == user
        and event.get("responseStatus", {}).get("code") == 403
    }
    assert refused == set()
