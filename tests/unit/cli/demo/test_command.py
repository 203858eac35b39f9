import pytest

from reasonchip_broker.cli import main


@pytest.mark.parametrize("name", ["none", "empty"])
def test_an_input_without_files_is_one_line_that_says_what_to_do(capsys, tmp_path, name):
    (tmp_path / "empty").mkdir()
    assert main(["demo", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"{tmp_path}/{name}" in err
    assert "name a folder with files in it" in err
