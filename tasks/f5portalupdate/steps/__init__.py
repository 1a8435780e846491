"""The three steps: extract reads, transform decides, load writes."""
