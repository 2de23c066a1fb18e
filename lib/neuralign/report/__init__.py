"""From rows to tables, claims, figures and the page. Nothing here imports torch."""
