"""A bad settings file is refused with a sentence that names the key, the value and the way out."""

import pytest

from sluice.control.settings import Settings, SettingsError, load_settings


def test_without_a_file_the_defaults_hold():
    assert load_settings(None) == Settings()


def test_durations_are_texts(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("fastTick: 500ms\nlease: {duration: 1m}\n")
    settings = load_settings(path)
    assert (settings.fast_tick, settings.lease.duration) == (0.5, 60.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fastTik: 2s", "fastTik is no setting"),
        ("fastTick: soon", "'soon' must be a duration"),
        ("lease: {duration: [1]}", "lease.duration"),
        ("{", "not YAML"),
        ("relist: 0s", "relist"),
        ("leases: 20s", "leases: must be at most 10s .found 20s."),
        ("lease: {duration: 5s}", "lease: .*duration longer than renewDeadline"),
        ("lease: {renewDeadline: 1s}", "renewDeadline longer than retry"),
        ("lease: {retry: 0s}", "retry must be above 0s"),
        ("recording: {directory: passes}", "recording.directory: .*absolute path.*'passes'"),
        ("recording: {keep: 0s}", "recording.keep"),
        ("recording: {maxBytes: 1}", "recording.maxBytes"),
    ],
)
def test_refuses_with_a_sentence(tmp_path, text, said):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=said):
        load_settings(path)


def test_names_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SettingsError, match="nowhere"):
        load_settings(tmp_path / "nowhere.yaml")
