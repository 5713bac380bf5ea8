"""How the command line refuses: for every test of a command."""

from edge.__main__ import main


def refused(capfd, *arguments):
    """The one line with which the command refuses; nothing else may be printed."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    out, err = capfd.readouterr()
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err
