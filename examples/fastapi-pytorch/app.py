"""Adds on the GPU, and says on which. Fails at its start where PyTorch cannot compute there."""

import torch
from fastapi import FastAPI

if not torch.cuda.is_available():
    raise SystemExit("PyTorch sees no GPU; on the host: nvoci doctor")

app = FastAPI()


@app.get("/")
def add(a: float = 1, b: float = 2) -> dict:
    on_gpu = torch.tensor([a], device="cuda") + torch.tensor([b], device="cuda")
    return {"sum": on_gpu.item(), "gpu": torch.cuda.get_device_name(0)}


@app.get("/health")
def health() -> dict:
    torch.cuda.synchronize()
    return {"ok": True}
