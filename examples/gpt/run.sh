#!/usr/bin/env bash
# Sets up, builds and trains with one command. See README.md beside this file.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
example=gpt
# shellcheck source=examples/common/run.sh
source "$root/examples/common/run.sh"

take_ranks "$@"
((!help)) || show_help <<'END'
Usage: examples/gpt/run.sh [--ranks N] [--text FILE] [OPTION ...]

Installs what is missing (tools/setup.sh), builds the example, makes tokens of a text, and starts N ranks with mpirun.

  --ranks N     ranks to start on this machine, 1 to 1024 (default 2)
  --text FILE   any text to learn from (default: the King James Bible of Debian's package bible-kjv)

Every other option goes to the program; with --data, no text is needed:

END

# --text is ours, and --data makes it superfluous.
text=
has_data=0
rest=()
set -- ${arguments[@]+"${arguments[@]}"}
while (($#)); do
  case $1 in
    --text)
      (($# >= 2)) || fail 2 '--text: needs a file (--help lists the options)'
      text=$2
      shift
      ;;
    --text=*) text=${1#--text=} ;;
    --data | --data=*)
      has_data=1
      rest+=("$1")
      ;;
    *) rest+=("$1") ;;
  esac
  shift
done
[[ -z $text || -r $text ]] || fail 2 "--text: '$text' cannot be read"
((!has_data)) || [[ -z $text ]] || fail 2 '--text: is not needed with --data, which has the tokens already'

LOCKSTEP_WITH_TEXT=1 set_up_and_build gpt text_to_tokens

if ((!has_data)); then
  texts=$build_dir/gpt_text
  mkdir -p "$texts"
  if [[ -z $text ]]; then
    # A verse a line, which begins with its place: "Ge1:1 In the beginning".
    text=$texts/bible.txt
    [[ -s $text ]] || { bible -f -l100000 gen1:1-rev22:21 </dev/null >"$text.new" && mv "$text.new" "$text"; }
  fi
  tokens=$texts/tokens_of_${text##*/}
  "${program%/*}/text_to_tokens" "$text" "$tokens"
  rest=(--data "$tokens" ${rest[@]+"${rest[@]}"})
fi
start "${rest[@]}"
