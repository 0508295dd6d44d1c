// A pthread mutex held for a scope.
#pragma once

#include <pthread.h>

namespace pagoda::dma {

class locked {
  public:
    explicit locked(pthread_mutex_t &m) : m_(m) { pthread_mutex_lock(&m_); }
    ~locked() { pthread_mutex_unlock(&m_); }
    locked(const locked &) = delete;
    locked &operator=(const locked &) = delete;

  private:
    pthread_mutex_t &m_;
};

} // namespace pagoda::dma
