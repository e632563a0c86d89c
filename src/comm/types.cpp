// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/comm/types.h>

namespace lockstep {

std::string_view to_string(ReduceOp op) {
  switch (op) {
    case ReduceOp::Sum:
      return "Sum";
    case ReduceOp::Avg:
      return "Avg";
    case ReduceOp::Min:
      return "Min";
    case ReduceOp::Max:
      return "Max";
  }
  return "unknown";
}

std::string_view to_string(Backend backend) {
  switch (backend) {
    case Backend::Auto:
      return "Auto";
    case Backend::Single:
      return "Single";
    case Backend::SharedMemory:
      return "SharedMemory";
    case Backend::Mpi:
      return "Mpi";
  }
  return "unknown";
}

}  // namespace lockstep
