"""What a destination holds is kept, and what a source is: as users of the command and of the client meet it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from producer import Client
from tests.command import apf, apf_json
from tests.conftest import RedisServer, S3Server
from tests.faults.world import World, closing_world, photos
from tests.workers.fakes import FakeBroker
from tests.workers.schedules.world import World as Scheduled
from tests.workers.schedules.world import world as scheduled  # noqa: F401  a fixture
from workers.access.batch_records import check_batch
from workers.access.sources import Source, find_source, overlapping
from workers.batches.create import BatchOptions, OtherRecipe, create_batch, find_ledger, new_batch, write_alone
from workers.batches.rescue import plan_and_send
from workers.config.settings import Settings
from workers.core.records import PhotoRef
from workers.errors import BadRequest, Forbidden, IsOutput, NotAllowed, NotFound, StoreGone
from workers.ledger.lifecycle import cancel
from workers.ledger.open_batches import open_ids, register
from workers.schedules.edit import add_schedule
from workers.schedules.trigger import Trigger
from workers.store import S3Options, open_store
from workers.store.local import FileStore

LIGHT = ("--recipe", "light")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Two photos without a face, which are quickly done."""
    folder = tmp_path / "album"
    photo = Image.fromarray(skimage.data.coffee()).resize((150, 100))
    for name in ("a.jpg", "sub/b.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        photo.save(folder / name)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Photos by name, without what lies in `.apf`."""
    found = {path.relative_to(folder): path for path in folder.rglob("*.jpg")}
    return {str(name): path.read_bytes() for name, path in found.items() if ".apf" not in name.parts}


class TestTheCommand:
    def test_source_and_destination_the_wrong_way_round(self, album: Path, tmp_path: Path) -> None:
        """The originals stay byte for byte, and the command is refused before anything is written."""
        originals, prot = contents(album), tmp_path / "prot"
        apf("protect", album, prot, *LIGHT)
        outputs = contents(prot)
        assert outputs.keys() == originals.keys()
        refused = apf("protect", prot, album, *LIGHT, code=2).stderr
        assert "holds outputs of apf" in refused
        assert "the wrong way round?" in refused
        assert (contents(album), contents(prot)) == (originals, outputs)
        assert not (album / ".apf").exists()
        for part in (prot / "sub", tmp_path):  # a part of the destination, and what holds it and the album
            where = tmp_path.parent / f"{tmp_path.name}-else"
            result = apf("protect", part, where, *LIGHT, code=2 if part == prot / "sub" else 1)
            assert "of apf" in result.stderr
        assert contents(where).keys() == {"album/a.jpg", "album/sub/b.jpg"}, "the originals among them are protected"

    def test_a_users_file_is_kept_and_the_rest_goes_on(self, album: Path, tmp_path: Path) -> None:
        """Status 1 and the reason; `apf retry` does it once the file is away, or --overwrite at once."""
        prot = tmp_path / "prot"
        prot.mkdir()
        (prot / "a.jpg").write_bytes(b"my own")
        result = apf_json("protect", album, prot, *LIGHT, code=1)
        assert (result["no_face"], result["failed"]) == (1, 1)
        assert "was not written by apf and is left as it is" in result["failures"][0]["reason"]
        assert (prot / "a.jpg").read_bytes() == b"my own"
        assert apf_json("protect", album, prot, *LIGHT, "--overwrite")["no_face"] == 1
        assert (prot / "a.jpg").read_bytes() != b"my own"
        assert apf_json("protect", album, prot, *LIGHT)["skipped"] == 2, "they are outputs from now on"

    def test_two_sources_into_one_destination(self, album: Path, tmp_path: Path) -> None:
        """The first album's outputs stay; the second's photos of other names go there."""
        other, prot = tmp_path / "other", tmp_path / "prot"
        other.mkdir()
        Image.fromarray(skimage.data.coffee()).resize((90, 60)).save(other / "a.jpg")
        shutil.copy(other / "a.jpg", other / "c.jpg")
        apf("protect", album, prot, *LIGHT)
        before = contents(prot)
        result = apf_json("protect", other, prot, *LIGHT, code=1)
        assert (result["no_face"], result["failed"]) == (1, 1)
        assert "is the output of another photo" in result["failures"][0]["reason"]
        assert {name: data for name, data in contents(prot).items() if name != "c.jpg"} == before

    def test_a_second_recipe_waits_for_the_first(self, album: Path, tmp_path: Path) -> None:
        """Refused while the first batch is open, to begin or to resume; not once it is cancelled, or done."""
        prot, settings = tmp_path / "prot", Settings()
        ledger, batch = create_batch(str(album), str(prot), BatchOptions(recipe="strong"), settings)
        refused = apf("protect", album, prot, *LIGHT, code=2).stderr
        assert f"batch {batch.id} into" in refused
        assert "has recipe strong" in refused
        assert f"apf cancel {batch.destination} {batch.id}" in refused
        assert ledger.batch_ids() == [batch.id]
        cancel(ledger, batch, settings)
        first = apf_json("protect", album, prot, *LIGHT)
        assert first["no_face"] == 2
        ledger, second = create_batch(str(album), str(prot), BatchOptions(recipe="light"), settings)
        assert "has recipe light" in apf("resume", prot, batch.id, code=2).stderr
        assert apf_json("resume", prot, second.id)["skipped"] == 2
        assert apf_json("resume", prot, batch.id)["no_face"] == 2

    def test_one_photo_of_a_folder(self, album: Path, tmp_path: Path) -> None:
        """It alone is protected, under its own name; a name that is not there, or taken, is an error."""
        out = tmp_path / "out"
        result = apf_json("protect", album / "sub/b.jpg", out, *LIGHT)
        assert (result["photos"], result["no_face"], result["pending"]) == (1, 1, 0)
        assert contents(out).keys() == {"b.jpg"}
        assert apf_json("protect", album / "sub/b.jpg", out, *LIGHT)["skipped"] == 1
        missing = apf("protect", album / "none.jpg", out, *LIGHT, code=2).stderr
        assert f"there is no folder or photo {album / 'none.jpg'}: check the name" in missing
        named = apf("protect", album / "a.jpg", tmp_path / "a2.jpg", *LIGHT, code=2).stderr
        assert "is named like a photo, and DST is a folder or prefix" in named
        assert "overlap" in apf("protect", album / "a.jpg", album, *LIGHT, "--overwrite", code=2).stderr
        assert apf_json("protect", album / "a.jpg", album / "protected", *LIGHT)["no_face"] == 1
        assert "is no gradient file" in apf("protect", album / "a.jpg", out, *LIGHT, "--private", code=2).stderr

    def test_a_source_with_no_photos_says_so(self, tmp_path: Path) -> None:
        """Nothing was to be done, which may not be what was meant."""
        empty = tmp_path / "empty"
        empty.mkdir()
        (empty / "notes.txt").write_text("no photo")
        assert f"no photos in {empty.as_uri()}" in apf("protect", empty, tmp_path / "out", *LIGHT).stderr
        (empty / "a.jpg").write_bytes(b"x")
        said = apf("protect", empty, tmp_path / "out", *LIGHT, "--exclude", "*.jpg").stderr
        assert f"no photos in {empty.as_uri()}, or all are excluded" in said

    @pytest.mark.rotating
    @pytest.mark.parametrize("kind", ["moto_server", "swift"])
    def test_buckets(self, request: pytest.FixtureRequest, album: Path, kind: str) -> None:
        """One photo, a key that is not there, a whole prefix, a user's file, and the wrong way round."""
        server: S3Server = request.getfixturevalue(kind)
        own, prot = server.new_bucket("photos"), server.new_bucket("prot")
        where = {"APF_S3_ENDPOINT_URL": server.endpoint_url}
        photo = (album / "a.jpg").read_bytes()
        for key in ("ann/1.jpg", "ann/2.jpg"):
            server.client.put_object(Bucket=own, Key=key, Body=photo)
        server.client.put_object(Bucket=prot, Key="2.jpg", Body=b"my own")

        def objects(bucket: str) -> dict[str, bytes]:
            keys = [item["Key"] for item in server.client.list_objects_v2(Bucket=bucket).get("Contents", [])]
            read = {key: server.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
            return {key: data for key, data in read.items() if not key.startswith(".apf/")}

        result = apf_json("protect", f"s3://{own}/ann/1.jpg", f"s3://{prot}", *LIGHT, **where)
        assert (result["photos"], result["no_face"]) == (1, 1)
        assert objects(prot).keys() == {"1.jpg", "2.jpg"}
        for missing in ("ann/3.jpg", "bob"):
            said = apf("protect", f"s3://{own}/{missing}", f"s3://{prot}", *LIGHT, code=2, **where).stderr
            assert (
                f"there is no object s3://{own}/{missing}, and none below s3://{own}/{missing}/: check the na" in said
            )
        result = apf_json("protect", f"s3://{own}/ann", f"s3://{prot}", *LIGHT, code=1, **where)
        assert (result["skipped"], result["failed"]) == (1, 1)
        assert "was not written by apf" in result["failures"][0]["reason"]
        assert objects(prot)["2.jpg"] == b"my own"
        assert apf_json("protect", f"s3://{own}/ann", f"s3://{prot}", *LIGHT, "--overwrite", **where)["no_face"] == 1
        originals = objects(own)
        refused = apf("protect", f"s3://{prot}", f"s3://{own}/ann", *LIGHT, code=2, **where).stderr
        assert "holds outputs of apf" in refused
        assert objects(own) == originals == dict.fromkeys(("ann/1.jpg", "ann/2.jpg"), photo)


@pytest.fixture
def world(tmp_path: Path, redis_server: RedisServer) -> Iterator[World]:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    place = World(
        tmp_path, redis_server, (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri(), photos(6, special={})
    )
    with closing_world(place):
        yield place


def registered(world: World) -> set[str]:
    return open_ids(world.destination_url, world.settings)


class TestTheClient:
    def test_one_photo_is_a_source(self, world: World) -> None:
        """It is submitted as one that is named, and under an id of its own once."""
        client, key = Client(world.settings), sorted(world.photos)[0]
        url = f"{world.source_url}/{key.replace(' ', '%20')}"
        sent = client.submit(url, world.destination_url, batch_id="one")
        assert sent.photos == 1
        assert client.submit(url, world.destination_url, batch_id="one") == sent
        with pytest.raises(BadRequest, match="another one already"):
            client.submit(world.source_url, world.destination_url, batch_id="one")
        world.start_worker()
        assert client.wait(sent.destination, sent.batch, timeout_s=60).protected == 1
        assert [info.key for info in world.destination.list()] == [key.rpartition("/")[2]]
        with pytest.raises(StoreGone, match="there is no folder or photo"):
            client.submit(f"{world.source_url}/none.jpg", world.destination_url)

    def test_overwrite_and_outputs(self, world: World) -> None:
        """A user's file is replaced where the caller says so; a destination is no source."""
        client, key = Client(world.settings), sorted(world.photos)[0]
        world.destination.put(key, b"my own")
        world.start_worker()
        sent = client.submit(world.source_url, world.destination_url)
        assert client.wait(sent.destination, sent.batch, timeout_s=60).failed == 1
        assert world.destination.get(key).data == b"my own"
        sent = client.submit(world.source_url, world.destination_url, overwrite=True)
        assert client.wait(sent.destination, sent.batch, timeout_s=60).protected == 1
        with pytest.raises(IsOutput, match="the wrong way round"):
            client.submit(world.destination_url, world.source_url)

    def test_a_second_recipe_is_taken_back(self, world: World) -> None:
        """Nothing of it stays, in the ledger or registered; named photos and the same recipe are let in."""
        client = Client(world.settings)
        first = client.submit(world.source_url, world.destination_url, recipe="light")
        with pytest.raises(OtherRecipe, match=f"batch {first.batch} into .* is not done and has recipe light"):
            client.submit(world.source_url, world.destination_url, recipe="strong")
        assert (world.ledger.batches(), registered(world)) == ([first.batch], {first.batch})
        client.submit(world.source_url, world.destination_url, photos=sorted(world.photos)[:1], recipe="strong")
        client.submit(world.source_url, world.destination_url, recipe="light")
        assert len(world.ledger.batches()) == 3

    def test_two_recipes_at_the_same_moment(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both look before either is written: who writes second finds the first, and leaves nothing."""
        recipes = ("light", "strong")
        made = [
            new_batch(world.source_url, world.destination_url, BatchOptions(recipe=r), world.settings) for r in recipes
        ]
        (ledger, first), (_, second) = made
        put = FileStore.put

        def between(store: FileStore, key: str, *args: object, **more: object) -> object:
            if key.endswith(f"{second.id}/batch.json"):
                monkeypatch.setattr(FileStore, "put", put)
                write_alone(ledger, first, world.settings)
            return put(store, key, *args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(FileStore, "put", between)
        with pytest.raises(OtherRecipe):
            write_alone(ledger, second, world.settings)
        assert (ledger.batches(), registered(world)) == ([first.id], {first.id})

    def test_a_batch_that_is_done_or_of_another_destination_is_no_obstacle(self, world: World, tmp_path: Path) -> None:
        """It may be registered still: until the next pass of the reconciler, or for its callback."""
        world.start_worker()
        world.submit()
        world.wait()
        register(world.ledger, world.ledger.read_batch(world.batch_id), world.settings)
        assert world.batch_id in registered(world)
        create_batch(world.source_url, world.destination_url, BatchOptions(recipe="strong"), world.settings)
        allowed = f"{world.source_url} {tmp_path.as_uri()}"
        settings = world.settings.model_copy(update={"ledger_url": str(tmp_path / "ledgers"), "allowed_urls": allowed})
        for number, recipe in enumerate(("light", "strong")):
            create_batch(world.source_url, str(tmp_path / f"out{number}"), BatchOptions(recipe=recipe), settings)
        assert len(open_ids(world.destination_url, settings)) == 2, (
            "in one place with those of all destinations, where there is one"
        )


class TestSources:
    def test_who_may_list_and_not_read_submits_all_the_same(
        self, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whether photos are outputs is told by the workers then."""

        def refuse(*_: object) -> None:
            raise Forbidden("no s3:GetObject")

        monkeypatch.setattr(FileStore, "head", refuse)
        assert find_source(str(album), Settings()) == Source(album.as_uri())

    def test_a_ledger_elsewhere_tells_a_destination_too(self, album: Path, tmp_path: Path) -> None:
        """Also where APF_LEDGER_URL was set after the outputs were written; a word is not taken for a folder."""
        prot = tmp_path / "prot"
        store = open_store(prot, create=True)
        store.put("a.jpg", b"x", metadata={"apf-source-etag": "e", "apf-recipe": "r", "apf-batch": "b7"})
        assert find_source(str(prot), Settings()).url == prot.as_uri(), "no batch was run into it"
        for settings in (Settings(ledger_url=str(tmp_path / "ledgers")), Settings(ledger_url="beside-outputs")):
            ledger, batch = create_batch(str(album), str(prot), BatchOptions(), settings)
            for source in (prot, prot / "a.jpg"):
                with pytest.raises(IsOutput, match=r"'a\.jpg' of batch b7"):
                    find_source(str(source), settings)
            ledger.forget_batch(batch.id)
            shutil.rmtree(tmp_path / "ledgers", ignore_errors=True)
        assert not Path("beside-outputs").exists()

    def test_an_empty_bucket_is_a_source_and_an_empty_prefix_is_none(self, moto_server: S3Server) -> None:
        """A folder that a console made is one, too; a bucket that is not there is named."""
        bucket, s3 = moto_server.new_bucket(), S3Options(endpoint_url=moto_server.endpoint_url)
        settings = Settings(s3_endpoint_url=s3.endpoint_url)
        assert find_source(f"s3://{bucket}", settings) == Source(f"s3://{bucket}")
        with pytest.raises(NotFound, match=rf"there is no object s3://{bucket}/in"):
            find_source(f"s3://{bucket}/in", settings)
        open_store(f"s3://{bucket}", s3=s3).put("in/", b"")
        assert find_source(f"s3://{bucket}/in/", settings) == Source(f"s3://{bucket}/in")
        with pytest.raises(StoreGone):
            find_source("s3://no-such-bucket/in", settings)

    def test_a_place_that_is_not_allowed_is_not_looked_at(self, album: Path, tmp_path: Path) -> None:
        """Whether a photo is there is nobody's to know."""
        settings = Settings(broker_url="redis://x", allowed_urls=(tmp_path / "other").as_uri())
        with pytest.raises(NotAllowed):
            find_source(str(album / "none.jpg"), settings)

    def test_the_output_of_one_photo_may_lie_anywhere_but_where_it_lies(self, album: Path, tmp_path: Path) -> None:
        """By whichever name: a link, or a bucket and prefix that are cut otherwise."""
        (tmp_path / "link").symlink_to(album)
        assert overlapping(album.as_uri(), (tmp_path / "link").as_uri(), "a.jpg")
        assert not overlapping(album.as_uri(), (album / "out").as_uri(), "a.jpg")
        assert overlapping(album.as_uri(), (album / "out").as_uri(), None)
        assert overlapping("s3://photos/ann", "s3://photos/ann", "1.jpg")
        assert not overlapping("s3://photos/ann", "s3://photos/ann/out", "1.jpg")

    def test_a_worker_takes_one_photo_into_a_folder_beside_it(self, album: Path) -> None:
        """And no record that a forger made of it, with the photo's own place as the destination."""
        found = find_source(str(album / "a.jpg"), Settings())
        assert isinstance(found.photo, PhotoRef)
        settings = Settings()
        ledger, batch = new_batch(found.url, str(album / "out"), BatchOptions(), settings, photo=found.photo)
        check_batch(ledger, batch, settings)
        with pytest.raises(NotAllowed, match="overlap"):
            check_batch(ledger, batch.model_copy(update={"destination": batch.source}), settings)
        with pytest.raises(NotAllowed, match="overlap"):
            check_batch(ledger, batch.model_copy(update={"named": ()}), settings)


class TestSchedules:
    def test_reruns_replace_their_own_outputs_and_keep_the_users(self, scheduled: Scheduled) -> None:  # noqa: F811
        """New versions and new recipes go through; a user's file stays, until the schedule says otherwise."""
        scheduled.add()
        scheduled.photos("a", "b")
        scheduled.destination.put("b.jpg", b"my own")
        scheduled.run()
        assert scheduled.last().parts
        scheduled.photos("a", text="face, edited")
        scheduled.run(hours=1)
        assert scheduled.destination.get("a.jpg").data.startswith(b"protected:face, edited")
        assert scheduled.destination.get("b.jpg").data == b"my own"
        scheduled.change(overwrite=True)
        scheduled.run(hours=1)
        assert scheduled.destination.get("b.jpg").data.startswith(b"protected:face b")

    def test_a_schedule_waits_for_another_recipe(self, scheduled: Scheduled) -> None:  # noqa: F811
        """It says why, and runs at its next look after the other batch is done."""
        scheduled.photos("a")
        ledger, other = create_batch(
            "memory://in", "memory://out/public", BatchOptions(recipe="strong"), scheduled.settings
        )
        scheduled.add()
        assert scheduled.tick() == []
        assert f"batch {other.id} into memory://out/public is not done" in scheduled.overview().error
        plan_and_send(ledger, other.id, FakeBroker(scheduled.sent.append), scheduled.settings)
        scheduled.work()
        assert scheduled.run() == ["a"]
        assert scheduled.recipes()["a"] == scheduled.run_batches()[0].recipe.id

    def test_a_schedule_is_of_a_folder_of_originals(self, album: Path, tmp_path: Path) -> None:
        """One photo is refused, and so are outputs; an empty prefix may be filled later."""
        from apf.recipe import recipe_fields  # noqa: PLC0415

        prot, settings = tmp_path / "prot", Settings(ledger_url=str(tmp_path / "ledgers"))
        open_store(prot, create=True).put("a.jpg", b"x", metadata={"apf-source-etag": "e", "apf-recipe": "r"})
        create_batch(str(album), str(prot), BatchOptions(), settings)
        trigger = Trigger(every_s=3600, first="2026-01-01T00:00:00+00:00")
        fields = {
            "name": "s",
            "destination": str(tmp_path / "out"),
            "recipe": recipe_fields("light"),
            "trigger": trigger,
        }
        with pytest.raises(BadRequest, match="is one photo: give a schedule the folder"):
            add_schedule({**fields, "source": str(album / "a.jpg")}, settings)
        with pytest.raises(IsOutput):
            add_schedule({**fields, "source": str(prot)}, settings)
        assert add_schedule({**fields, "source": str(album), "overwrite": True}, settings).overwrite

    def test_commands_keep_and_change_whether_files_are_replaced(self, album: Path, tmp_path: Path) -> None:
        """`add --overwrite` and `change --no-overwrite`; without it the record is as versions before wrote it."""
        where = {"APF_LEDGER_URL": str(tmp_path / "ledger")}
        apf("schedule", "add", "s", album, tmp_path / "out", "--every", "1h", "--overwrite", **where)
        (kept,) = [path for path in (tmp_path / "ledger").rglob("*.json") if b'"overwrite"' in path.read_bytes()]
        apf("schedule", "change", "s", "--no-overwrite", **where)
        assert '"overwrite"' not in kept.read_text()


def test_a_batchs_record_says_only_that_it_replaces(album: Path, tmp_path: Path) -> None:
    """Workers of the version before read all other records, and refuse exactly those that they would not obey."""
    for overwrite in (False, True):
        asked = BatchOptions(overwrite=overwrite)
        ledger, batch = create_batch(str(album), str(tmp_path / "out"), asked, Settings())
        raw = ledger.read(ledger.key(batch.id, "batch.json")) or b""
        assert (b'"overwrite"' in raw) is overwrite
    assert find_ledger(str(tmp_path / "out"), Settings()).read_batch(batch.id).overwrite
