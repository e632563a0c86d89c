// SPDX-License-Identifier: BSD-3-Clause
#include "multirank/parity/tensor_file.h"

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <vector>

namespace lockstep::testing::parity {

std::filesystem::path fixtures() {
  const char* folder = std::getenv("LOCKSTEP_PARITY_FOLDER");
  if (folder == nullptr) {
    throw std::runtime_error("LOCKSTEP_PARITY_FOLDER is not set; ctest starts this program");
  }
  return folder;
}

Records read_records(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot read " + file.string());
  Records records;
  std::string line;
  while (std::getline(stream, line)) {
    std::istringstream header(line);
    std::string name;
    std::string layout;
    header >> name >> layout;
    std::vector<std::int64_t> sizes;
    for (std::int64_t size = 0; header >> size;) sizes.push_back(size);
    if (layout != "dense" && layout != "sparse" && layout != "complex") {
      throw std::runtime_error(file.string() + ": no header of a tensor: " + line.substr(0, 80));
    }
    auto values = torch::empty(sizes, torch::kDouble);
    stream.read(static_cast<char*>(values.data_ptr()),
                static_cast<std::streamsize>(values.nbytes()));
    if (!stream) throw std::runtime_error(file.string() + " ends within " + name);
    records[name] = {values, layout == "sparse"};
  }
  if (records.empty()) throw std::runtime_error(file.string() + " holds nothing");
  return records;
}

Records with_prefix(const Records& records, const std::string& prefix) {
  Records found;
  for (const auto& [name, tensor] : records) {
    if (name.rfind(prefix, 0) == 0) found[name.substr(prefix.size())] = tensor;
  }
  return found;
}

}  // namespace lockstep::testing::parity
