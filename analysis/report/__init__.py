"""The report as a page and as Markdown: sections, figures, templates."""
