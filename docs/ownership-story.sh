#!/bin/sh
# From a key to a report, on ml-100k: mark, serve, steal over HTTP, prove. Usage: docs/ownership-story.sh NEW-FOLDER
# Some 15 minutes on two cores; what it printed is in experiments/results/ownership-ml-100k.
set -eu
mkdir "$1"
cd "$1"
PORT=${PORT:-8126}

# The owner marks a model before anybody sees it. The statement's digest goes to a notary, a public log or a time-stamping authority.
gro train --dataset ml-100k --model SASRec --out plain --quiet
gro own keygen owner.key
gro own mark plain --key owner.key --owner "Example Records" --out marked --quiet

# It is served, here with limits that let a thief work in an afternoon.
gro guard init guard > guard.log
cat > policy.toml <<END
[limits]
calls_per_day = 100_000
END
sed -i 's|^policy = .*|policy = "policy.toml"|' guard/guard.toml
gro guard keys create guard/keys.json --account somebody --json > somebody.json
python -c 'import json; print(json.load(open("somebody.json"))["key"])' > somebody.key
chmod 600 somebody.key somebody.json
gro serve marked --guard guard/guard.toml --port $PORT --quiet &
SERVICE=$!
trap 'kill $SERVICE' EXIT
until curl --silent --fail "http://127.0.0.1:$PORT/ready" > /dev/null; do sleep 1; done

# A thief who has an account, and nothing else, asks 50,000 times and trains a copy of another architecture.
python - <<END
from pathlib import Path
from gro import artifacts
from gro.ownership.wire import Endpoint
from gro_surrogates.thief import Thief, ThiefSettings

items = artifacts.load(Path("marked"))  # for the names of the items, which every customer knows
settings = ThiefSettings(model="GRU4Rec")
door = Endpoint("http://127.0.0.1:$PORT/rank", Path("somebody.key").read_text().strip(), 100)
theft = Thief(settings)(door, items.manifest.n_items, 50_000, seed=1)
print("asked", theft.calls, "times")
artifacts.save(
    Path("copy"), model=theft.surrogate, settings=settings, item_tokens=items.item_tokens,
    dataset={"name": "answers", "digest": "0" * 64}, seed=1, command={}, metrics={},
)
END

# The copy is put before the owner, and beside it a model that somebody else trained on the same data.
gro own verify copy --statement marked.evidence/statement.json --public-key owner.key.pub --json > verdict.json
gro own verify copy --statement marked.evidence/statement.json --public-key owner.key.pub
gro train --dataset ml-100k --model GRU4Rec --seed 9 --out independent --quiet
gro own verify independent --statement marked.evidence/statement.json --public-key owner.key.pub
gro own report verdict.json --statement marked.evidence/statement.json --public-key owner.key.pub --out report.html
