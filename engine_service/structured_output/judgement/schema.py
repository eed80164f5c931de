"""check_schema: whether a schema may be given to the library."""

from engine_service.structured_output.judgement.multiples import check_multiples
from engine_service.structured_output.judgement.patterns import excludes_escaped
from engine_service.structured_output.judgement.schema_nodes import each_subschema, parse_schema
from engine_service.structured_output.library import GrammarError


def check_schema(text: str) -> None:
    """Raises GrammarError. The text's depth must be bounded, as the library's parser does."""
    schema = parse_schema(text)
    for node in each_subschema(schema):
        keys = node.get("patternProperties")
        for pattern in (node.get("pattern"), *(keys if isinstance(keys, dict) else ())):
            if isinstance(pattern, str) and excludes_escaped(pattern):
                raise GrammarError(
                    f"pattern {pattern[:200]}: a class that excludes quotes or backslashes is not "
                    "supported; list what it may match"
                )
    try:
        check_multiples(schema)
    except RecursionError:
        raise GrammarError("its references lead through too many others") from None
