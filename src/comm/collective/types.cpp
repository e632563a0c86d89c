// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/comm/types.h>

#include <sstream>

namespace lockstep {

std::string to_string(ReduceOp op) {
  switch (op.kind()) {
    case ReduceOp::Kind::Sum:
      return "Sum";
    case ReduceOp::Kind::Avg:
      return "Avg";
    case ReduceOp::Kind::Product:
      return "Product";
    case ReduceOp::Kind::Min:
      return "Min";
    case ReduceOp::Kind::Max:
      return "Max";
    case ReduceOp::Kind::BitAnd:
      return "BitAnd";
    case ReduceOp::Kind::BitOr:
      return "BitOr";
    case ReduceOp::Kind::BitXor:
      return "BitXor";
    case ReduceOp::Kind::PreMulSum:
      std::ostringstream text;
      text << "PreMulSum(" << op.factor() << ")";
      return std::move(text).str();
  }
  return "unknown";
}

}  // namespace lockstep
