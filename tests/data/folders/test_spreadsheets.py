"""Tables as spreadsheet programs save them: encodings, separators, blanks, and what is refused."""

import pytest

from sedm.data.folders.spreadsheets import read_spreadsheet
from sedm.data.patch_table import PatchTableError

COLUMNS = ("file_name", "group")
ROWS = {2: {"file_name": "a.png", "group": "Köln 007"}, 3: {"file_name": "b.png", "group": "007"}}


def read(tmp_path, content):
    path = tmp_path / "metadata.csv"
    path.write_bytes(content)
    return read_spreadsheet(path, COLUMNS)


def fault(tmp_path, content):
    """The sentence that refuses a table, after the path of its file."""
    with pytest.raises(PatchTableError) as caught:
        read(tmp_path, content)
    path, message = str(tmp_path / "metadata.csv"), str(caught.value)
    assert message.startswith(path)
    assert "\n" not in message
    return message.removeprefix(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be with mark", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t", " , ", "; "])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_every_spreadsheet_program_gives_the_same_rows(tmp_path, encoding, separator, line_end):
    text = line_end.join(separator.join(line) for line in (COLUMNS, ("a.png", "Köln 007"), ("b.png", "007")))
    content = b"\xfe\xff" + text.encode("utf-16-be") if encoding.endswith("mark") else text.encode(encoding)
    assert read(tmp_path, content) == ROWS


def test_blanks_around_cells_do_not_count_even_where_no_keyboard_makes_them(tmp_path):
    text = " file_name ,\tgroup\xa0\n a.png , Köln 007\u3000\n\xa0b.png,007 \n"
    assert read(tmp_path, text.encode()) == ROWS


def test_quotation_marks_keep_separators_and_line_ends_in_a_cell(tmp_path):
    text = 'file_name, group, note\na.png, "p, 1", "two\nlines; ""quoted"""\nb.png,p2,5" core\n'
    assert read(tmp_path, text.encode()) == {
        2: {"file_name": "a.png", "group": "p, 1", "note": 'two\nlines; "quoted"'},
        3: {"file_name": "b.png", "group": "p2", "note": '5" core'},
    }


def test_rows_and_columns_that_a_spreadsheet_leaves_empty_are_none(tmp_path):
    text = ";;;\nfile_name;group;;\n;;;\na.png;Köln 007;;\n \nb.png;007\n;;;\n"
    assert read(tmp_path, text.encode()) == {4: ROWS[2], 6: ROWS[3]}


@pytest.mark.parametrize(
    ("group", "encoding"),
    [
        ("Köln", "mac-roman"),
        ("Köln", "cp850"),
        ("Москва", "cp1251"),
        ("Αθήνα", "cp1253"),
        ("東京", "shift-jis"),
        ("北京", "gbk"),
        ("Köln", "utf-16-le"),
        ("Köln", "utf-32"),
        ("Ärzte", "mac-roman"),  # its Ä is the euro of Windows-1252
        ("Malmö", "cp850"),  # its ö is a closing quotation mark
        ("García", "cp850"),  # its í is an exclamation mark
        ("l’hôpital", "cp1252"),  # an apostrophe within a word, but on a Mac "líh"
    ],
)
def test_an_encoding_that_cannot_be_told_is_refused_with_the_way_out(tmp_path, group, encoding):
    content = f"file_name,group\na.png,{group}\n".encode(encoding)
    assert fault(tmp_path, content) == ": its encoding cannot be told; save it again as “CSV UTF-8”"


@pytest.mark.parametrize(
    "note", ["“tumour”", "5 €", "€5", "5\xa0€", "„Köln“", "‘a’", "3 – 5", "3–5", "“5 €”; ‘é’", "m²K, «à la»", "nº 1·2"]
)
def test_signs_that_only_windows_1252_has_are_read_where_no_letter_stands(tmp_path, note):
    content = f'file_name,group,note\na.png,p1,"{note}"\n'.encode("cp1252")
    assert read(tmp_path, content) == {2: {"file_name": "a.png", "group": "p1", "note": note}}


def test_a_file_in_two_encodings_or_that_is_no_text_is_refused(tmp_path):
    mixed = "file_name,group\na.png,Köln\n".encode() + "b.png,Köln\n".encode("cp1252")
    for content in (mixed, b"PK\x03\x04\0\0of a workbook"):
        assert "its encoding cannot be told" in fault(tmp_path, content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name;group\na.png;p1\nb.png; \n", ", line 3: the column 'group' is empty"),
        ("file_name;group\n;p1\n", ", line 2: the column 'file_name' is empty"),
        ("file_name;group\na.png\n", ", line 2: the column 'group' is empty"),
        ("file_name,group,group\na.png,p1,p2\n", ": the column 'group' is there 2 times"),
        ("file_name,group,\na.png,p1,x\n", ", line 2: 'x' in column 3, which has no name in the head"),
        (
            ",file_name,group\n0,a.png,p1\n",
            ", line 2: '0' in column 1, which has no name in the head; save without row numbers (pandas: index=False)",
        ),
        ('file_name,group\na.png,p1\nb.png,"p2\nc.png,p3\n', ", line 3: its quotation marks do not match"),
        ("file_name|group\na.png|p1\n", ": expected the columns file_name and group, found 'file_name|group'"),
        ("", ": expected the columns file_name and group, found ''"),
        ("file_name,group\n,\n", ": no rows below the head"),
    ],
)
def test_a_fault_is_named_with_its_line_and_column(tmp_path, text, message):
    assert fault(tmp_path, text.encode()).startswith(message)


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PatchTableError, match=r"metadata\.csv: no such file; expected a table with the columns"):
        read_spreadsheet(tmp_path / "metadata.csv", COLUMNS)
