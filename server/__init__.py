"""The HTTP server: an OpenAI-style API over a served model. It knows HTTP and no tensor."""

__version__ = "0.1.0"
