"""How the embedded store says no: Qdrant's own error shape, `{"status": {"error": ...}, "time": ...}`."""


class Refusal(Exception):
    """A request that is answered with an HTTP status and a message in Qdrant's words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def wrong_input(message: str) -> Refusal:
    """400: the request is well formed and cannot be done."""
    return Refusal(400, f"Wrong input: {message}")


def bad_body(message: str) -> Refusal:
    """400: the JSON is not what the call takes."""
    return Refusal(400, f"Format error in JSON body: {message}")


def invalid(message: str) -> Refusal:
    """422: a value is out of its range."""
    return Refusal(422, f"Validation error in JSON body: [{message}]")


def not_found(message: str) -> Refusal:
    """404."""
    return Refusal(404, f"Not found: {message}")


def unsupported(what: str) -> Refusal:
    """501: Qdrant has it, the embedded store does not. Said, never guessed at."""
    return Refusal(501, f"Not supported by Vigil's embedded vector store: {what}. A Qdrant server has it.")
