"""Generated schemas, regular expressions and Lark grammars, half of them built to be costly."""
