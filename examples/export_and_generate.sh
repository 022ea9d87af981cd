# From a transformers model ($LLM: a folder, or a name on the hub) to text written by its 4-bit version.
onnxfq export "$LLM" llm-onnx --task text-generation-with-past
onnxfq quantize llm-onnx -o llm-int4 --calib self --samples 8 --seq-len 32 --max-kl 0.5
onnxfq evaluate llm-int4 --baseline llm-onnx --text held-back.txt --seq-len 32 --samples 8 --max-ppl-increase 10%
python - <<'PYTHON'
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer

model = ORTModelForCausalLM.from_pretrained("llm-int4", provider="CPUExecutionProvider")
tokenizer = AutoTokenizer.from_pretrained("llm-int4")
prompt = tokenizer("The quick brown fox", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=8)[0]))
PYTHON
