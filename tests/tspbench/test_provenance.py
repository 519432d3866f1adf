"""A record names what ran."""

from tspbench import __version__, provenance


def test_the_version_is_that_of_the_code_that_runs(monkeypatch):
    # An editable installation keeps the metadata of the day it was installed.
    provenance.provenance.cache_clear()
    monkeypatch.setattr(provenance, "version", lambda _name: "0.0.1")
    packages = provenance.provenance()["packages"]
    provenance.provenance.cache_clear()
    assert packages["tspbench"] == __version__
    assert packages["torch"] == "0.0.1"
