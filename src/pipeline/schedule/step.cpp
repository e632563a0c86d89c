// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/pipeline/step.h>

#include <ostream>

namespace lockstep::pipeline {

std::string to_string(const Step& step) {
  std::string text = std::to_string(step.stage);
  switch (step.kind) {
    case StepKind::Compute:
      text += "COMPUTE";
      break;
    case StepKind::PostReceive:
      text += "RECV_";
      break;
    case StepKind::WaitReceive:
      text += "WAIT_";
      break;
    case StepKind::Send:
      text += "SEND_";
      break;
  }
  if (step.kind != StepKind::Compute) text += step.traffic == Traffic::Activation ? 'F' : 'B';
  text += std::to_string(step.microbatch);
  return text;
}

std::ostream& operator<<(std::ostream& out, const Step& step) {
  return out << to_string(step);
}

}  // namespace lockstep::pipeline
