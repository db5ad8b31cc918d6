"""The report's sections, a module each: section(study, canvas) gives a Section, or None with nothing to say."""
