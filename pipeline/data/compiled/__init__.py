"""Loops over bytes that numba compiles.

Only what works on text imports them, and where it works: a plan must not wait for the compiler.
They take a batch of texts as one array of bytes, with where each begins; what is compiled is kept
beside the source or, where that cannot be written, in numba's own folder (`NUMBA_CACHE_DIR`).
"""
