"""The book's machinery: executing pages, keeping them fresh, staging and rendering them, the ledger page."""
