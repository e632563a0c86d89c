// SPDX-License-Identifier: BSD-3-Clause
#include "native/mpi/mpi_environment.h"

#if __has_include(<mpi-ext.h>)
#include <mpi-ext.h>  // Open MPI's word on CUDA; MPICH has it in mpi.h
#endif

#include <array>
#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace lockstep::native {
namespace {

std::atomic<bool> has_given_up{false};  // as MPI itself, one a process

void finalize_at_exit() {
  if (has_given_up) return;
  int is_finalized = 0;
  if (MPI_Finalized(&is_finalized) == MPI_SUCCESS && is_finalized == 0) MPI_Finalize();
}

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw std::runtime_error(std::string(call) + ": " + text.data());
}

void ensure_mpi() {
  int is_finalized = 0;
  check_mpi(MPI_Finalized(&is_finalized), "MPI_Finalized");
  if (is_finalized != 0) throw std::runtime_error("MPI has ended in this process");
  int is_initialized = 0;
  check_mpi(MPI_Initialized(&is_initialized), "MPI_Initialized");
  int level = MPI_THREAD_SINGLE;
  if (is_initialized != 0) {
    check_mpi(MPI_Query_thread(&level), "MPI_Query_thread");
  } else {
    // So that two groups can be used by two threads at once.
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level), "MPI_Init_thread");
    // A group cannot end MPI when it closes: MPI never starts twice, and the program may make
    // another group.
    std::atexit(finalize_at_exit);
  }
  if (level < MPI_THREAD_SERIALIZED) {
    throw std::runtime_error("MPI was started without MPI_THREAD_SERIALIZED");
  }
}

bool is_mpi_cuda_aware() {
#if (defined(OMPI_HAVE_MPI_EXT_CUDA) && OMPI_HAVE_MPI_EXT_CUDA) || \
    (defined(MPICH_NUMVERSION) && MPICH_NUMVERSION >= 40000000)
  return MPIX_Query_cuda_support() == 1;
#else
  return false;
#endif
}

void give_up_mpi() noexcept {
  has_given_up = true;
}

MpiCommunicator::MpiCommunicator() {
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &handle_), "MPI_Comm_dup");
  take_over();
}

MpiCommunicator::MpiCommunicator(const MpiCommunicator& parent, const std::vector<int>& members) {
  MPI_Group all = MPI_GROUP_NULL;
  check_mpi(MPI_Comm_group(parent.handle_, &all), "MPI_Comm_group");
  MPI_Group chosen = MPI_GROUP_NULL;
  check_mpi(MPI_Group_incl(all, static_cast<int>(members.size()), members.data(), &chosen),
            "MPI_Group_incl");
  check_mpi(MPI_Comm_create_group(parent.handle_, chosen, 0, &handle_), "MPI_Comm_create_group");
  MPI_Group_free(&chosen);
  MPI_Group_free(&all);
  take_over();
}

void MpiCommunicator::take_over() {
  check_mpi(MPI_Comm_set_errhandler(handle_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(handle_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(handle_, &size_), "MPI_Comm_size");
}

void MpiCommunicator::free() {
  if (handle_ != MPI_COMM_NULL) check_mpi(MPI_Comm_free(&handle_), "MPI_Comm_free");
}

MPI_Request* MpiRequests::add() {
  return &handles_.emplace_back(MPI_REQUEST_NULL);
}

bool MpiRequests::test() {
  int is_done = 0;
  check_mpi(MPI_Testall(static_cast<int>(handles_.size()), handles_.data(), &is_done,
                        MPI_STATUSES_IGNORE),
            "MPI_Testall");
  return is_done != 0;
}

bool MpiRequests::is_done(std::size_t index) {
  int is_done = 0;
  check_mpi(MPI_Request_get_status(handles_[index], &is_done, MPI_STATUS_IGNORE),
            "MPI_Request_get_status");
  return is_done != 0;
}

}  // namespace lockstep::native
