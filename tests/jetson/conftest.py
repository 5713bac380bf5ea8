"""The boards, for every test here."""

from boards import board, make_board, wheelhouse

__all__ = ["board", "make_board", "wheelhouse"]
