// SPDX-License-Identifier: BSD-3-Clause
#include "training/background/line_format.h"

#include "files/json_events.h"
#include "training/background/log_text.h"

namespace lockstep::training {

void append_remark(std::string& text, const QueuedLine& line, const std::string& prefix) {
  append_time(text, line.nanoseconds);
  text += ' ';
  text += logging::name_of(line.level);
  if (!prefix.empty()) {
    text += ' ';
    text += prefix;
  }
  text += ": ";
  append_escaped(text, line.text);
  text += '\n';
}

void append_note_as_json(std::string& text, const QueuedLine& line) {
  text += R"({"time":")";
  append_time(text, line.nanoseconds);
  text += R"(","lockstep":)";
  text += files::json_text(line.text);
  text += "}\n";
}

}  // namespace lockstep::training
