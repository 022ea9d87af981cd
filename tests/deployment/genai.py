"""Prints the tokens that onnxruntime-genai continues a prompt with, as JSON. Runs in an environment of its own.

python genai.py FOLDER TOKENS ID [ID …]
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime_genai as genai

folder, tokens, *prompt = sys.argv[1:]
model = genai.Model(folder)
parameters = genai.GeneratorParams(model)
parameters.set_search_options(max_length=len(prompt) + int(tokens), do_sample=False)
generator = genai.Generator(model, parameters)
generator.append_tokens(np.array([prompt], np.int32))
while not generator.is_done():
    generator.generate_next_token()
print(json.dumps([int(token) for token in generator.get_sequence(0)]))
