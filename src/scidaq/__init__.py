"""scidaq: the data-acquisition server that a laboratory leaves running."""

__version__ = "0.1.0"
