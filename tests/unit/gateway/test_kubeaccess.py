"""Finding the Kubernetes API: kubeconfig files, pods, and what is wrong with either."""

import base64

import pytest
import yaml

from sluice_gateway.kubeaccess import AccessError, find_access


def write(path, *, user=None, cluster=None, **more):
    server = {"server": "http://127.0.0.1:1/", **(cluster or {})}
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": server}],
        "users": [{"name": "u", "user": user or {}}],
        **more,
    }
    path.write_text(yaml.safe_dump(config))
    return {"KUBECONFIG": str(path)}


def test_reads_a_token_file_again_for_every_request(tmp_path):
    token = tmp_path / "token"
    token.write_text("one\n")
    access = find_access(write(tmp_path / "config", user={"tokenFile": "token"}))
    assert access.server == "http://127.0.0.1:1"
    assert access.read_headers() == {"Authorization": "Bearer one"}
    token.write_text("two\n")
    assert access.read_headers() == {"Authorization": "Bearer two"}


def test_a_token_in_the_file(tmp_path):
    access = find_access(write(tmp_path / "config", user={"token": "t"}))
    assert access.read_headers() == {"Authorization": "Bearer t"}


def test_in_a_pod(tmp_path):
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    with pytest.raises(AccessError, match="certificates"):
        find_access(environ, account=tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"current-context": "other"}, r"lacks 'contexts\[other\]'"),
        ({"users": []}, r"lacks 'users\[u\]'"),
        ({"user": {"exec": {}}}, "asks for exec; the gateway knows"),
        ({"cluster": {"server": "https://x", "certificate-authority": "no"}}, "certificates"),
        (
            {
                "cluster": {
                    "server": "https://x",
                    "certificate-authority-data": base64.b64encode(b"junk").decode(),
                }
            },
            "certificates",
        ),
    ],
)
def test_a_bad_kubeconfig_gets_a_sentence(tmp_path, change, sentence):
    with pytest.raises(AccessError, match=sentence):
        find_access(write(tmp_path / "config", **change))


def test_files_that_are_not_there_or_not_yaml(tmp_path):
    with pytest.raises(AccessError, match="No such file"):
        find_access({"KUBECONFIG": str(tmp_path / "none")})
    (tmp_path / "odd").write_text("a: [")
    with pytest.raises(AccessError, match="not YAML"):
        find_access({"KUBECONFIG": str(tmp_path / "odd")})
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AccessError, match="not YAML"):
        find_access({"KUBECONFIG": str(tmp_path / "binary")})
    for text in ("[]", ""):
        (tmp_path / "other").write_text(text)
        with pytest.raises(AccessError, match="is empty, or not a mapping of fields"):
            find_access({"KUBECONFIG": str(tmp_path / "other")})


def test_nothing_at_all_says_what_to_do():
    with pytest.raises(AccessError, match="set KUBECONFIG"):
        find_access({})
