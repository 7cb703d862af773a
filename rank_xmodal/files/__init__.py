"""Files: written whole or not at all, read with a message when one is broken, told apart by their checksums."""

from rank_xmodal.files.digest import check_once, sha256, sha256_of, sha256_of_file
from rank_xmodal.files.locking import held, locked
from rank_xmodal.files.reading import (
    open_npy,
    opened_parquet,
    read_json,
    read_parquet,
    read_table,
    read_yaml,
    yaml_value,
)
from rank_xmodal.files.writing import (
    flush_folder,
    not_ours,
    recover,
    remove,
    replacing,
    telling,
    write_json,
    write_text,
)

__all__ = [
    "check_once",
    "flush_folder",
    "held",
    "locked",
    "not_ours",
    "open_npy",
    "opened_parquet",
    "read_json",
    "read_parquet",
    "read_table",
    "read_yaml",
    "recover",
    "remove",
    "replacing",
    "sha256",
    "sha256_of",
    "sha256_of_file",
    "telling",
    "write_json",
    "write_text",
    "yaml_value",
]
