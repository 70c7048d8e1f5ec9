"""Caption files made on the spot, of images given as (id, name, split, captions)."""


def coco(*images) -> dict:
    return {
        "images": [{"id": key, "file_name": name} for key, name, _, _ in images],
        "annotations": [
            {"id": i, "image_id": key, "caption": text}
            for key, _, _, captions in images
            for i, text in enumerate(captions)
        ],
    }


def karpathy(*images) -> dict:
    entries = [
        {"imgid": key, "filename": name, "split": split, "sentences": [{"raw": c} for c in texts]}
        for key, name, split, texts in images
    ]
    return {"images": entries, "dataset": "tiny"}
