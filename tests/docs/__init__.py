"""What the documents tell users to do, done."""
