"""The noise of stochastic gradient descent: laws of the sampling noise, what they do to gradients, and checks of what
four papers say about them.

Import the floor you need (`support.sampling`, `support.msgd`, ...); this package itself imports nothing, so
`import support` is immediate.
"""

__version__ = "0.1.0"
