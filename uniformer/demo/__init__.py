"""What `uniformer demo` shows: a film made on the spot whose truth is known, and the page of a timeline."""
