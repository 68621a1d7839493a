"""PP-OCRv4's detection of text from operator set 12 to 13; sides are multiples of 32. Needs onnx.

What it gives ends before the last sigmoid: where there is no text that is 0 in 32 bits, and nothing is left to compare.

    python3 ppocr_det.py --from FOLDER --to model.onnx        FOLDER holds source.onnx
"""

from opset import main

if __name__ == "__main__":
    page = ("x", "x", ["batch", 3, "height", "width"])
    main(__doc__, [page], [("p2o.Add.281", "logits", ["batch", 1, "height", "width"])])
