// SPDX-License-Identifier: BSD-3-Clause
#include "training/optimizer/named_fields.h"

namespace lockstep::training {

void NamedOptionWriter::constant(const char* name, const char* json) {
  if (!constants_.empty()) constants_ += ',';
  constants_ += files::json_string(name);
  constants_ += ':';
  constants_ += json;
}

void NamedOptionReader::constant(const char* name, const char* json) {
  std::string field = files::json_string(name);
  field += ':';
  field += json;
  reader_.check_python_only(name, field);
}

}  // namespace lockstep::training
