"""Attacks: what one caller can send to hurt others, sent beside callers who must not feel it.

classes/     generators of attacks, one class of them a file
attacker     the process that sends them
beside       the canary, health and innocent callers meanwhile
strike, run  one attack and its verdicts; all of them
"""
