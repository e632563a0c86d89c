// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

#include "training/background/line_ring.h"

namespace lockstep::training {

/// As it is, with a newline.
inline void append_line(std::string& text, const QueuedLine& line) {
  text += line.text;
  if (line.text.empty() || line.text.back() != '\n') text += '\n';
}

/// A remark as `file_log` writes it: time, level, `prefix`, message.
void append_remark(std::string& text, const QueuedLine& line, const std::string& prefix);

/// How many lines were lost, in a file whose lines we know nothing of: JSON, because readers of
/// lines of JSON take nothing else, and others can read it too.
void append_note_as_json(std::string& text, const QueuedLine& line);

}  // namespace lockstep::training
