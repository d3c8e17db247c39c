"""Problems whose answer is known exactly, without Monte Carlo."""
