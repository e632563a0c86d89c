// SPDX-License-Identifier: BSD-3-Clause
#include "training/safetensors/index_writer.h"

#include "files/json_events.h"

namespace lockstep::training {

void IndexWriter::add(const std::string& tensor, std::uint64_t bytes, const std::string& file) {
  total_ += bytes;
  if (!map_.empty()) map_ += ',';
  map_ += files::json_string(tensor);
  map_ += ':';
  map_ += files::json_string(file);
}

std::string IndexWriter::text() const {
  std::string text = R"({"metadata":{"total_size":)";
  text += std::to_string(total_);
  text += R"(},"weight_map":{)";
  text += map_;
  text += "}}\n";
  return text;
}

}  // namespace lockstep::training
