"""The inference server in a worker pod: a NumPy transformer behind the OpenAI API."""
