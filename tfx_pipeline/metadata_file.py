"""ML Metadata's database of a folder, to be read only."""

import pathlib

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

from gemma_tf_distill.errors import UserError


def open_metadata(database: pathlib.Path) -> metadata_store.MetadataStore:
    """The store in a file that is there; nothing is written to it.

    Raises:
      UserError: if it is no database of ML Metadata.
    """
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(database)
    connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READONLY
    try:
        return metadata_store.MetadataStore(connection)
    except RuntimeError as error:  # What ML Metadata raises, whatever it was.
        raise damaged_database(database) from error


def damaged_database(database: pathlib.Path) -> UserError:
    """What is told of a database that can't be read."""
    return UserError(f"{database} is damaged or empty, ML Metadata can't read it: run the config again in another folder (--output)")
