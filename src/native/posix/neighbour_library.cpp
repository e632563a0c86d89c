// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/neighbour_library.h"

#include <dlfcn.h>

#include <string>

namespace lockstep::native {

bool load_neighbour_library(const char* symbol, const char* name) {
  // By name: the address of a function may be a place in the program that leads to it.
  const void* const address = ::dlsym(RTLD_DEFAULT, symbol);
  Dl_info info{};
  if (address == nullptr || ::dladdr(address, &info) == 0 || info.dli_fname == nullptr) {
    return false;
  }
  const std::string path = info.dli_fname;
  const auto folder_end = path.rfind('/');
  if (folder_end == std::string::npos) return false;
  // Never closed: what was loaded after it may need it.
  return ::dlopen((path.substr(0, folder_end + 1) + name).c_str(), RTLD_LAZY | RTLD_LOCAL) !=
         nullptr;
}

}  // namespace lockstep::native
