"""Estimators whose parameters scikit-learn explains in its own display."""

__all__ = ["Documented"]


class Documented:
    """Base of estimators, before scikit-learn's own.

    In a notebook, a pointer on a parameter shows its part of the docstring. That needs
    an estimator with a link to a page: here it is the paper of the method.
    """

    _doc_link_module = "brainfeat"
    _doc_link_template = "https://arxiv.org/abs/2510.23415"
