"""The Python interface: a function for every verb of the command line, and models that are opened once and asked often.

``import vitrine`` shows what is here; no module imports torch before a function is called that needs it.
"""
