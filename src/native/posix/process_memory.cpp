// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/process_memory.h"

#include <fstream>
#include <string>

namespace lockstep::native {

std::size_t anonymous_memory_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("RssAnon:", 0) == 0) return std::stoull(line.substr(8)) * 1024;
  }
  return 0;
}

}  // namespace lockstep::native
