"""Layouts of other tools, made from their documentation alone: torchvision, Kaggle, Hugging Face, Roboflow ..."""

# ruff: noqa: E501  files as their tools write them

from __future__ import annotations

from pathlib import Path

import pytest
from support.layouts import write_tree

from vitrine.check import check
from vitrine.errors import DataError

# Pictures; other files; the reference; and what it comes to, or a part of the message.
PEERS: dict[str, tuple[list[str], dict[str, str], str, str]] = {
    "torchvision ImageFolder": (
        [
            "root/dog/xxx.png",
            "root/dog/xxy.png",
            "root/dog/[...]/xxz.png",
            "root/cat/xxx.png",
            "root/cat/xxy.png",
            "root/cat/[...]/xxz.png",
        ],
        {},
        "root",
        "6 pictures; classes cat, dog; train 4, validation 2",
    ),
    "torchvision CocoCaptions annFile": (
        ["train2017/000000000009.jpg"],
        {
            "annotations/captions_train2017.json": '{"info": {}, "licenses": [], "images": [{"license": 3, "file_name": "000000000009.jpg", "coco_url": "http://x", "height": 480, "width": 640, "id": 9}], "annotations": [{"image_id": 9, "id": 1, "caption": "x y"}]}'
        },
        "annotations/captions_train2017.json",
        "1 pictures; 1 captions; train 1",
    ),
    "Kaggle dogs-vs-cats": (
        [
            "train/cat.0.jpg",
            "train/cat.1.jpg",
            "train/cat.2.jpg",
            "train/cat.3.jpg",
            "train/dog.0.jpg",
            "train/dog.1.jpg",
            "train/dog.2.jpg",
            "train/dog.3.jpg",
            "test1/1.jpg",
            "test1/2.jpg",
        ],
        {},
        "train",
        "8 pictures; pictures 8",
    ),
    "Kaggle cassava": (
        [
            "train_images/1000015157.jpg",
            "train_images/1000201771.jpg",
            "train_images/100042118.jpg",
            "test_images/2216849948.jpg",
        ],
        {
            "train.csv": "image_id,label\n1000015157.jpg,0\n1000201771.jpg,3\n100042118.jpg,1\n",
            "sample_submission.csv": "image_id,label\n2216849948.jpg,4\n",
            "label_num_to_disease_map.json": '{"0": "CBB"}',
        },
        "train.csv",
        "3 pictures; classes 0, 1, 3; train 3",
    ),
    "Kaggle aptos": (
        ["train_images/000c1434d8d7.png", "train_images/001639a390f0.png", "test_images/0005cfc8afb6.png"],
        {"train.csv": "id_code,diagnosis\n000c1434d8d7,2\n001639a390f0,4\n"},
        "train.csv?image=id_code&label=diagnosis",
        "2 pictures; classes 2, 4; train 2",
    ),
    "Kaggle humpback whale": (
        ["train/0000e88ab.jpg", "train/0001f9222.jpg"],
        {"train.csv": "Image,Id\n0000e88ab.jpg,w_f48451c\n0001f9222.jpg,w_c3d896a\n"},
        "train.csv?label=Id",
        "2 pictures; classes w_c3d896a, w_f48451c; train 2",
    ),
    "Kaggle planet": (
        ["train-jpg/train_0.jpg", "train-jpg/train_1.jpg"],
        {"train_v2.csv": "image_name,tags\ntrain_0,haze primary\ntrain_1,agriculture clear primary water\n"},
        "train_v2.csv?label=tags&separator=space",
        "2 pictures; classes agriculture, clear, haze, primary, water; train 1, validation 1",
    ),
    "Kaggle plant pathology 2020": (
        ["images/Train_0.jpg", "images/Train_1.jpg", "images/Test_0.jpg"],
        {"train.csv": "image_id,healthy,multiple_diseases,rust,scab\nTrain_0,0,0,0,1\nTrain_1,0,1,0,0\n"},
        "train.csv",
        "2 pictures; classes healthy, multiple_diseases, rust, scab; train 1, validation 1",
    ),
    "Kaggle HAM10000": (
        ["HAM10000_images_part_1/ISIC_0027419.jpg", "HAM10000_images_part_2/ISIC_0030580.jpg"],
        {
            "HAM10000_metadata.csv": "lesion_id,image_id,dx,dx_type,age,sex,localization\nHAM_0000118,ISIC_0027419,bkl,histo,80.0,male,scalp\nHAM_1,ISIC_0030580,akiec,histo,,male,ear\n"
        },
        "HAM10000_metadata.csv?image=image_id&label=dx",
        "2 pictures; classes akiec, bkl; train 2",
    ),
    "Kaggle paddy (label folder)": (
        ["train_images/blast/100330.jpg", "train_images/normal/100365.jpg"],
        {"train.csv": "image_id,label,variety,age\n100330.jpg,blast,ADT45,45\n100365.jpg,normal,ADT45,45\n"},
        "train.csv",
        "2 pictures; classes blast, normal; train 2",
    ),
    "HF imagefolder metadata in split": (
        ["folder/train/0001.png", "folder/train/0002.png", "folder/test/0003.png"],
        {
            "folder/train/metadata.csv": "file_name,label\n0001.png,a\n0002.png,b\n",
            "folder/test/metadata.csv": "file_name,label\n0003.png,a\n",
        },
        "folder",
        "3 pictures; classes a, b; train 2, test 1",
    ),
    "HF imagefolder captions jsonl": (
        ["folder/0001.png", "folder/0002.png"],
        {
            "folder/metadata.jsonl": '{"file_name": "0001.png", "text": "This is a golden retriever"}\n{"file_name": "0002.png", "text": "A german shepherd"}\n'
        },
        "folder",
        "2 pictures; 2 captions; train 1, validation 1",
    ),
    "HF imagefolder captions in train/": (
        ["folder/train/0001.png", "folder/train/0002.png"],
        {
            "folder/train/metadata.jsonl": '{"file_name": "0001.png", "text": "This is a golden retriever"}\n{"file_name": "0002.png", "text": "A german shepherd"}\n'
        },
        "folder",
        "2 pictures; 2 captions; train 1, validation 1",
    ),
    "HF imagefolder additional_feature": (
        ["folder/train/dog/golden.png", "folder/train/cat/maine.png", "folder/test/dog/germ.png"],
        {"folder/train/metadata.csv": "file_name,additional_feature\ndog/golden.png,x\ncat/maine.png,y\n"},
        "folder",
        "3 pictures; classes cat, dog; train 2, test 1",
    ),
    "HF metadata file_name train/": (
        ["folder/train/0001.png", "folder/train/0002.png", "folder/valid/0003.png"],
        {"folder/metadata.csv": "file_name,label\ntrain/0001.png,a\ntrain/0002.png,b\nvalid/0003.png,a\n"},
        "folder",
        "3 pictures; classes a, b; train 2, validation 1",
    ),
    "Roboflow folder export": (
        [
            "ds/train/Paper/Paper_0_jpg.rf.ab0train.jpg",
            "ds/train/Paper/Paper_1_jpg.rf.ab1train.jpg",
            "ds/train/Rock/Rock_0_jpg.rf.ab0train.jpg",
            "ds/train/Rock/Rock_1_jpg.rf.ab1train.jpg",
            "ds/valid/Paper/Paper_0_jpg.rf.ab0valid.jpg",
            "ds/valid/Paper/Paper_1_jpg.rf.ab1valid.jpg",
            "ds/valid/Rock/Rock_0_jpg.rf.ab0valid.jpg",
            "ds/valid/Rock/Rock_1_jpg.rf.ab1valid.jpg",
            "ds/test/Paper/Paper_0_jpg.rf.ab0test.jpg",
            "ds/test/Paper/Paper_1_jpg.rf.ab1test.jpg",
            "ds/test/Rock/Rock_0_jpg.rf.ab0test.jpg",
            "ds/test/Rock/Rock_1_jpg.rf.ab1test.jpg",
        ],
        {"ds/README.dataset.txt": "x", "ds/README.roboflow.txt": "y"},
        "ds",
        "12 pictures; classes Paper, Rock; train 4, validation 4, test 4",
    ),
    "Roboflow multi-label export": (
        ["ds/train/a.jpg", "ds/train/b.jpg", "ds/valid/c.jpg"],
        {
            "ds/train/_classes.csv": "filename, Paper, Rock\na.jpg, 1, 0\nb.jpg, 1, 1\n",
            "ds/valid/_classes.csv": "filename, Paper, Rock\nc.jpg, 0, 1\n",
        },
        "ds",
        "3 pictures; classes Paper, Rock; train 2, validation 1",
    ),
    "Roboflow _classes.csv itself": (
        ["ds/train/a.jpg", "ds/train/b.jpg", "ds/valid/c.jpg"],
        {
            "ds/train/_classes.csv": "filename, Paper, Rock\na.jpg, 1, 0\nb.jpg, 1, 1\n",
            "ds/valid/_classes.csv": "filename, Paper, Rock\nc.jpg, 0, 1\n",
        },
        "ds/train/_classes.csv",
        "2 pictures; classes Paper, Rock; train 1, validation 1",
    ),
    "Label Studio CSV": (
        ["images/8d3f-a.jpg", "images/9e1c-b.jpg"],
        {
            "project-1.csv": "annotation_id,annotator,choice,created_at,id,image,lead_time,updated_at\n1,1,Cat,2023-01-01T00:00:00Z,1,/data/upload/1/8d3f-a.jpg,3.1,2023\n2,1,Dog,2023-01-01,2,/data/upload/1/9e1c-b.jpg,2.1,2023\n"
        },
        "project-1.csv?label=choice&pictures=images",
        "2 pictures; classes Cat, Dog; train 2",
    ),
    "Label Studio JSON-MIN": (
        ["upload/1/8d3f-a.jpg", "upload/1/9e1c-b.jpg"],
        {
            "min.json": '[{"image": "/data/upload/1/8d3f-a.jpg", "id": 1, "choice": "Cat", "annotator": 1, "annotation_id": 1, "created_at": "x", "updated_at": "y", "lead_time": 2.3}, {"image": "/data/local-files/?d=upload/1/9e1c-b.jpg", "id": 2, "choice": "Dog", "annotator": 1, "annotation_id": 2}]'
        },
        "min.json?label=choice",
        "2 pictures; classes Cat, Dog; train 2",
    ),
    "Label Studio multi choice JSON-MIN": (
        ["a.jpg", "b.jpg"],
        {
            "min.json": '[{"image": "/data/upload/1/a.jpg", "id": 1, "choice": {"choices": ["Cat", "Dog"]}}, {"image": "/data/upload/1/b.jpg", "id": 2, "choice": "Dog"}]'
        },
        "min.json?label=choice",
        "2 pictures; classes Cat, Dog; train 1, validation 1",
    ),
    "CVAT ImageNet export": (
        ["ds/cat/cat_img1.jpg", "ds/cat/cat_img2.jpg", "ds/dog/dog_img1.jpg", "ds/dog/dog_img2.jpg"],
        {"ds/synsets.txt": "cat\ndog\n"},
        "ds",
        "4 pictures; classes cat, dog; train 2, validation 2",
    ),
    "FiftyOne directory tree": (
        ["ds/classA/i1.jpg", "ds/classB/i2.jpg", "ds/classB/i3.jpg", "ds/classA/i4.jpg"],
        {},
        "ds",
        "4 pictures; classes classA, classB; train 2, validation 2",
    ),
    "FiftyOne labels.json": (
        ["ds/data/u1.jpg", "ds/data/u2.jpg"],
        {"ds/labels.json": '{"classes": ["a", "b"], "labels": {"u1": 0, "u2": 1}}'},
        "ds",
        "2 pictures; classes a, b; train 2",
    ),
    "LAVIS storage": (
        ["coco/images/val2014/COCO_val2014_1.jpg", "coco/images/train2014/COCO_train2014_2.jpg"],
        {
            "coco/annotations/coco_karpathy_train.json": '[{"caption": "A", "image": "train2014/COCO_train2014_2.jpg", "image_id": "coco_2"}]',
            "coco/annotations/coco_karpathy_val.json": '[{"image": "val2014/COCO_val2014_1.jpg", "caption": ["B", "C"]}]',
            "coco/annotations/coco_karpathy_val_gt.json": '{"annotations": [{"image_id": 1, "caption": "B", "id": 1}], "images": [{"id": 1}]}',
        },
        "coco",
        "2 pictures; 3 captions; train 1, validation 1",
    ),
    "open_clip csv": (
        ["img/1.jpg", "img/2.jpg"],
        {"train.csv": "filepath\ttitle\nimg/1.jpg\tA dog\nimg/2.jpg\tA cat\n"},
        "train.csv?caption=title",
        "2 pictures; 2 captions; train 1, validation 1",
    ),
    "open_clip csv no options": (
        ["img/1.jpg", "img/2.jpg"],
        {"train.csv": "filepath\ttitle\nimg/1.jpg\tA dog\nimg/2.jpg\tA cat\n"},
        "train.csv",
        "2 pictures; 2 captions; train 1, validation 1",
    ),
    "OpenImages": (
        ["train/000002b66c9c498e.jpg", "train/000002b97e5471a0.jpg"],
        {
            "labels.csv": "ImageID,Source,LabelName,Confidence\n000002b66c9c498e,verification,/m/01g317,1\n000002b97e5471a0,verification,/m/0284d,1\n"
        },
        "labels.csv?image=ImageID&label=LabelName",
        "2 pictures; classes /m/01g317, /m/0284d; train 2",
    ),
    "Celeba list_attr csv": (
        ["img_align_celeba/img_align_celeba/000001.jpg", "img_align_celeba/img_align_celeba/000002.jpg"],
        {"list_attr_celeba.csv": "image_id,5_o_Clock_Shadow,Bald\n000001.jpg,-1,1\n000002.jpg,-1,-1\n"},
        "list_attr_celeba.csv",
        "2 pictures; classes 5_o_Clock_Shadow, Bald; train 1, validation 1",
    ),
    "nocaps/coco captions in root": (
        ["images/0.jpg", "images/1.jpg"],
        {
            "captions_val.json": '{"images": [{"id": 0, "file_name": "0.jpg"}, {"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 0, "caption": "a"}, {"image_id": 1, "caption": "b"}]}'
        },
        ".",
        "2 pictures; 2 captions; validation 2",
    ),
}

REFUSED: dict[str, tuple[list[str], dict[str, str], str, str]] = {
    "CUB-200 root": (
        [
            "CUB/images/001.Black/Black_1.jpg",
            "CUB/images/002.Lay/Lay_1.jpg",
            "CUB/images/001.Black/Black_2.jpg",
            "CUB/images/002.Lay/Lay_2.jpg",
        ],
        {
            "CUB/images.txt": "1 001.Black/Black_1.jpg\n2 002.Lay/Lay_1.jpg\n",
            "CUB/classes.txt": "1 001.Black\n2 002.Lay\n",
        },
        "CUB",
        "Give CUB/images itself",
    ),
    "AutoML CSV headerless": (
        ["a.jpg", "b.jpg"],
        {"ds.csv": "TRAIN,gs://bucket/a.jpg,cat\nTEST,gs://bucket/b.jpg,dog\n"},
        "ds.csv",
        "put a header above it",
    ),
    "headerless csv": (["a.jpg", "b.jpg"], {"ds.csv": "a.jpg,cat\nb.jpg,dog\n"}, "ds.csv", "put a header above it"),
    "mmpretrain ann txt": (
        ["data/folder_1/x.png", "data/folder_2/y.png"],
        {"data/train.txt": "folder_1/x.png 0\nfolder_2/y.png 1\n"},
        "data/train.txt",
        "Expected lines of a picture",
    ),
    "textcaps json": (
        ["train_images/a.jpg"],
        {
            "TextCaps_0.1_train.json": '{"dataset_type": "train", "dataset_name": "textcaps", "data": [{"image_id": "a", "caption_str": "x y", "image_path": "train/a.jpg", "reference_strs": ["x y"]}]}'
        },
        "TextCaps_0.1_train.json",
        "expected a JSON list",
    ),
}


def outcome_of(reference: str) -> str:
    report = check(reference)
    what = f"{report.captions.captions} captions" if report.captions else f"classes {', '.join(report.labels)}"
    parts = [f"{report.pictures} pictures"]
    parts += [what] if report.captions or report.labels else []
    return "; ".join([*parts, ", ".join(f"{split.name} {split.pictures}" for split in report.splits)])


@pytest.mark.parametrize("name", PEERS)
def test_a_peers_layout_opens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, others, reference, outcome = PEERS[name]
    write_tree(tmp_path, dict.fromkeys(pictures) | {path: text.encode() for path, text in others.items()})
    monkeypatch.chdir(tmp_path)
    assert outcome_of(reference) == outcome
    assert not check(reference).unreadable


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_open_is_told_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, others, reference, words = REFUSED[name]
    write_tree(tmp_path, dict.fromkeys(pictures) | {path: text.encode() for path, text in others.items()})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=words):
        check(reference)
