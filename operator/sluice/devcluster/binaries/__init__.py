"""The programs of a control plane: what is needed, where it is looked for, how it is made.

`resolution` is the way in; the other modules are the sources it tries in order.
"""
